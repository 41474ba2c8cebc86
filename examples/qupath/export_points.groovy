/*
 * Exports the annotations and detections of every image of the open project as NAME.geojson, which `kinet-trt eval`,
 * `train` and `compare` read.
 *
 * QuPath 0.5 or newer. Save your corrections (File > Save), then run this script once from the script editor (Run > Run,
 * not "Run for project"). It asks for a folder, which must not contain files of these names.
 */
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

/** Returns possible names of a file for an image: without series and extension, without series, whole. */
def fileNames(String imageName) {
    def name = imageName.split(' - ')[0]
    return [name.contains('.') ? name.substring(0, name.lastIndexOf('.')) : name, name, imageName]
}

def project = getProject()
if (project == null) {
    println 'Open a project first.'
    return
}
def folder = FileChoosers.promptForDirectory('Folder for the corrected points', null)
if (folder == null)
    return

def entries = project.getImageList().findAll { it.hasImageData() }
def fileOf = { entry ->
    // The shortest name that no other image has: a.png and a.tif keep their extensions.
    def name = fileNames(entry.getImageName()).find { shorter ->
        entries.count { shorter in fileNames(it.getImageName()) } == 1
    } ?: entry.getImageName() + '-' + entry.getID()
    return new File(folder, name.replaceAll('[\\\\/:*?"<>|]', '_') + '.geojson')
}
def existing = entries.collect(fileOf).findAll { it.exists() }
if (existing) {
    println "Nothing was written, because ${existing[0]} exists already. Choose another folder."
    return
}
for (entry in entries) {
    def hierarchy = entry.readHierarchy()
    def objects = hierarchy.getAnnotationObjects() + hierarchy.getDetectionObjects()
    if (objects.isEmpty()) {
        println "${entry.getImageName()}: no annotations or detections"
        continue
    }
    PathIO.exportObjectsAsGeoJSON(fileOf(entry), objects, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
    println "${entry.getImageName()}: ${objects.size()} objects in ${fileOf(entry).name}"
}
